//! How large a file and a function may be, in measures that density does not cheat.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};
use syn::{BinOp, Block, Expr, ImplItemFn, ItemFn, Local, TraitItemFn};

use crate::sources::{Source, sources};

/// Bytes of a file before its inline tests.
const MAX_FILE_BYTES: usize = 16 * 1024;
/// Branches of a function, those of its closures among them.
const MAX_BRANCHES: usize = 20;

/// Files that are larger, and why. One that is so no longer has to go from here.
const LARGE_FILES: [(&str, &str); 3] = [
    (
        "providers/src/registry.rs",
        "a table of providers, read entry by entry",
    ),
    ("src/config.rs", "the parts of a configuration"),
    (
        "src/config/check.rs",
        "the checks of all of a configuration's parts",
    ),
];
/// Functions that branch more often, and why: a table reads the same at any length. One that does so no longer has to
/// go from here.
const TABLES: [(&str, &str, &str); 5] = [
    (
        "workers/src/outcome/policy.rs",
        "decide",
        "a table of failures and what follows from each",
    ),
    (
        "simulator/src/route.rs",
        "task",
        "a table of providers' addresses",
    ),
    (
        "simulator/src/account.rs",
        "set",
        "a table of fields, each of which may be wrong",
    ),
    (
        "simulator/src/refusal.rs",
        "answer",
        "two tables: what is refused, and who refuses it",
    ),
    (
        "simulator/src/schema.rs",
        "value",
        "a table of the kinds of a schema",
    ),
];

/// Methods whose closure or value is taken on one of two ways.
const BRANCHING_METHODS: [&str; 22] = [
    "and_then",
    "filter",
    "filter_map",
    "find_map",
    "is_none_or",
    "is_ok_and",
    "is_some_and",
    "map_or",
    "map_or_else",
    "map_while",
    "ok_or",
    "ok_or_else",
    "or",
    "or_else",
    "or_insert_with",
    "skip_while",
    "take_if",
    "take_while",
    "then",
    "then_some",
    "unwrap_or",
    "unwrap_or_else",
];

#[derive(Default)]
struct Branches {
    count: usize,
}

impl<'ast> Visit<'ast> for Branches {
    fn visit_expr(&mut self, expr: &'ast Expr) {
        self.count += match expr {
            Expr::If(_) | Expr::While(_) | Expr::ForLoop(_) | Expr::Loop(_) | Expr::Try(_) => 1,
            Expr::Match(found) => found.arms.len().saturating_sub(1),
            Expr::Binary(found) => usize::from(matches!(found.op, BinOp::And(_) | BinOp::Or(_))),
            Expr::MethodCall(call) => {
                usize::from(BRANCHING_METHODS.iter().any(|name| call.method == name))
            }
            _ => 0,
        };
        visit::visit_expr(self, expr);
    }

    fn visit_local(&mut self, local: &'ast Local) {
        self.count += usize::from(
            local
                .init
                .as_ref()
                .is_some_and(|init| init.diverge.is_some()),
        );
        visit::visit_local(self, local);
    }

    // A function inside a function is measured by itself.
    fn visit_item_fn(&mut self, _: &'ast ItemFn) {}
}

struct Functions<'a> {
    source: &'a Source,
    /// The file and the name of those that branch too often.
    branching: BTreeSet<(String, String)>,
}

impl Functions<'_> {
    fn measure(&mut self, name: &syn::Ident, block: &Block) {
        let mut branches = Branches::default();
        branches.visit_block(block);
        if branches.count > MAX_BRANCHES {
            let path = self.source.path.display().to_string();
            self.branching.insert((path, name.to_string()));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.measure(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.measure(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn no_file_needs_a_map() {
    let is_large = |source: &Source| source.before_tests().len() > MAX_FILE_BYTES;
    let large = sources().into_iter().filter(is_large);
    let large: BTreeSet<_> = large
        .map(|source| source.path.display().to_string())
        .collect();
    let excepted = LARGE_FILES.map(|(path, _)| path.to_owned());
    let message =
        "files of more than 16 KiB before their tests, and those that LARGE_FILES excepts";
    assert_eq!(large, BTreeSet::from(excepted), "{message}");
}

#[test]
fn no_function_needs_a_map() {
    let mut branching = BTreeSet::new();
    for source in sources() {
        let mut functions = Functions {
            source: &source,
            branching: BTreeSet::new(),
        };
        for item in source.items() {
            functions.visit_item(&item);
        }
        branching.extend(functions.branching);
    }
    let excepted = TABLES.map(|(path, name, _)| (path.to_owned(), name.to_owned()));
    let message = "functions of more than 20 branches, and those that TABLES excepts";
    assert_eq!(branching, BTreeSet::from(excepted), "{message}");
}
