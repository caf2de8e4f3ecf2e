//! No circle of modules inside a crate: each can be read once those it imports are known.
//!
//! A module imports another by a `use` or a path that begins with `crate`, `super`, `self` or the name of a module in
//! its own folder. A name that is taken from where it is imported counts as of the file that declares it. A file may use what
//! the file of its own folder declares: a folder is one room.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syn::visit::{self, Visit};
use syn::{ItemUse, Macro, Path, UseTree};

use crate::sources::{CRATES, Source, sources};

/// Names of modules from the root of the crate.
type Module = Vec<String>;

/// The paths that a file names.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
    /// Of each name that it imports, the path: others may take it from here.
    imported: HashMap<String, Vec<String>>,
}

impl Paths {
    fn of(source: &Source) -> Self {
        let mut paths = Self::default();
        source
            .items()
            .iter()
            .for_each(|item| paths.visit_item(item));
        paths
    }

    fn add_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree),
            UseTree::Group(group) => {
                group
                    .items
                    .iter()
                    .for_each(|tree| self.add_tree(before, tree));
            }
            UseTree::Glob(_) => self.found.push(before.to_vec()),
            UseTree::Name(name) => self.add_name(&name.ident, with(&name.ident)),
            UseTree::Rename(name) => self.add_name(&name.rename, with(&name.ident)),
        }
    }

    fn add_name(&mut self, name: &syn::Ident, path: Vec<String>) {
        self.imported.insert(name.to_string(), path.clone());
        self.found.push(path);
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.segments.len() > 1 {
            self.found.push(
                path.segments
                    .iter()
                    .map(|segment| segment.ident.to_string())
                    .collect(),
            );
        }
        visit::visit_path(self, path);
    }

    // What a macro is given is not parsed: its paths are found by their text.
    fn visit_macro(&mut self, found: &'ast Macro) {
        self.visit_path(&found.path);
        let text = found.tokens.to_string().replace(' ', "");
        for path in text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
            if path.contains("::") {
                self.found
                    .push(path.split("::").map(str::to_owned).collect());
            }
        }
    }
}

struct Modules {
    paths: BTreeMap<Module, Paths>,
}

impl Modules {
    /// The module that declares what a path of `from` names, if it is one of the crate.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        let (mut module, mut rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => (from[..from.len() - 1].to_vec(), &path[1..]),
            name if self
                .paths
                .contains_key(&[from.as_slice(), &[name.to_owned()]].concat()) =>
            {
                (from.clone(), path)
            }
            _ => return None,
        };
        while let Some((name, after)) = rest.split_first() {
            let child = [module.as_slice(), std::slice::from_ref(name)].concat();
            if name == "super" {
                module.pop();
            } else if self.paths.contains_key(&child) {
                module = child;
            } else {
                break;
            }
            rest = after;
        }
        let imported = rest
            .first()
            .and_then(|name| self.paths.get(&module)?.imported.get(name));
        let declared = imported
            .filter(|_| depth < 4)
            .and_then(|path| self.resolve(&module, path, depth + 1));
        Some(declared.unwrap_or(module))
    }

    fn imports(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let mut imports = BTreeMap::new();
        for (module, paths) in &self.paths {
            let resolved = paths
                .found
                .iter()
                .filter_map(|path| self.resolve(module, path, 0));
            let others = resolved
                .filter(|other| !module.starts_with(other) && self.paths.contains_key(other));
            imports.insert(module, others.collect());
        }
        imports
    }

    /// Of each circle the imports that make it, as `module -> other`.
    fn circles(&self) -> BTreeSet<Vec<String>> {
        let imports = self.imports();
        let reached: BTreeMap<_, _> = imports
            .keys()
            .map(|from| (*from, reach(&imports, from)))
            .collect();
        let is_mutual = |one: &Module, other: &Module| {
            reached[one].contains(other) && reached[other].contains(one)
        };
        let mut circles = BTreeSet::new();
        for module in self
            .paths
            .keys()
            .filter(|module| reached[module].contains(*module))
        {
            let inside = self.paths.keys().filter(|other| is_mutual(module, other));
            let arrows = inside.flat_map(|from| {
                let others = imports[from]
                    .iter()
                    .filter(|other| is_mutual(module, other));
                others.map(|other| format!("{} -> {}", from.join("::"), other.join("::")))
            });
            circles.insert(arrows.collect());
        }
        circles
    }
}

fn reach(imports: &BTreeMap<&Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<Module> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        for other in &imports[module] {
            if reached.insert(other.clone()) {
                open.push(other);
            }
        }
    }
    reached
}

#[test]
fn no_circle_of_modules() {
    let sources = sources();
    let mut circles = Vec::new();
    for crate_dir in CRATES {
        let of_crate = sources
            .iter()
            .filter(|source| source.crate_dir == crate_dir);
        let paths = of_crate
            .map(|source| (source.module(), Paths::of(source)))
            .collect();
        circles.extend(
            Modules { paths }
                .circles()
                .into_iter()
                .map(|circle| (crate_dir, circle)),
        );
    }
    assert!(
        circles.is_empty(),
        "modules that import each other: {circles:#?}"
    );
}

fn modules(files: &[(&str, &str)]) -> Modules {
    let mut paths = BTreeMap::new();
    for (module, text) in files {
        let source = Source {
            path: "src/lib.rs".into(),
            crate_dir: "src",
            text: (*text).to_owned(),
        };
        let names = module
            .split("::")
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        paths.insert(names.collect(), Paths::of(&source));
    }
    Modules { paths }
}

#[test]
fn an_import_that_closes_a_circle_is_found() {
    let open = [("", "mod a; mod b;"), ("a", "use crate::b::B;"), ("b", "")];
    assert!(modules(&open).circles().is_empty());
    for closing in [
        "use super::a::A;",
        "use crate::{a, c};",
        "fn f() { crate::a::g() }",
        "fn f() { debug!(crate::a::X) }",
        "use crate::A;",
    ] {
        let circle = BTreeSet::from([vec!["a -> b".to_owned(), "b -> a".to_owned()]]);
        let closed = [
            ("", "mod a; mod b; pub use a::A;"),
            ("a", "use crate::b::B;"),
            ("b", closing),
        ];
        assert_eq!(modules(&closed).circles(), circle, "{closing}");
    }
}

#[test]
fn a_folder_is_one_room() {
    let folder = [
        (
            "queue",
            "mod stream; pub use stream::Stream; pub trait Queue {}",
        ),
        ("queue::stream", "use super::Queue;"),
    ];
    assert!(modules(&folder).circles().is_empty());
}
