//! A chain of calls and an inline closure are read at once, or their parts have names.

use std::collections::BTreeSet;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Expr, ExprCall, ExprClosure, ExprMethodCall, Stmt};

use crate::sources::sources;

/// The most calls of a chain.
const MAX_CALLS: usize = 4;
/// The most lines of a closure without a name: its head, three lines and its end.
const MAX_CLOSURE_LINES: usize = 5;

/// The places of a file that need two readings.
#[derive(Default)]
struct Places {
    /// The lines of chains of more calls.
    chains: BTreeSet<usize>,
    /// The lines of longer closures without a name.
    closures: BTreeSet<usize>,
}

/// The calls of the chain that ends with `call`; none of what a builder builds, since a chain of fields is a list.
fn chained_calls(call: &ExprMethodCall) -> usize {
    let mut receiver = &*call.receiver;
    if call.method == "build" {
        return 1;
    }
    loop {
        receiver = match receiver {
            Expr::MethodCall(inner) => return 1 + chained_calls(inner),
            Expr::Await(inner) => &inner.base,
            Expr::Try(inner) => &inner.expr,
            Expr::Paren(inner) => &inner.expr,
            Expr::Field(inner) => &inner.base,
            _ => return 1,
        };
    }
}

/// Returns true if a closure's body is one value or one call, however many lines that has, or a future.
fn is_one_thing(closure: &ExprClosure) -> bool {
    let is_simple = |expr: &Expr| {
        matches!(
            expr,
            Expr::Async(_) | Expr::Call(_) | Expr::Macro(_) | Expr::MethodCall(_) | Expr::Struct(_)
        )
    };
    if closure.asyncness.is_some() || is_simple(&closure.body) {
        return true;
    }
    let Expr::Block(body) = &*closure.body else {
        return false;
    };
    match body.block.stmts.as_slice() {
        [Stmt::Expr(only, _)] => is_simple(only),
        [Stmt::Macro(_)] => true,
        _ => false,
    }
}

fn lines_of(closure: &ExprClosure) -> usize {
    let span = closure.span();
    span.end().line - span.start().line + 1
}

impl Places {
    /// Looks at the arguments of a call: a closure there has no name.
    fn arguments<'a>(&mut self, arguments: impl IntoIterator<Item = &'a Expr>) {
        for argument in arguments {
            let Expr::Closure(closure) = argument else {
                continue;
            };
            if !is_one_thing(closure) && lines_of(closure) > MAX_CLOSURE_LINES {
                self.closures.insert(argument.span().start().line);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Places {
    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        if chained_calls(call) > MAX_CALLS {
            self.chains.insert(call.span().start().line);
        }
        self.arguments(&call.args);
        if call.method == "build" {
            // The chain behind it is a list of fields.
            return;
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        self.arguments(&call.args);
        visit::visit_expr_call(self, call);
    }
}

#[test]
fn chains_and_closures_are_read_at_once() {
    let (mut chains, mut closures) = (Vec::new(), Vec::new());
    for source in sources() {
        let path = source.path.display().to_string();
        let mut places = Places::default();
        for item in source.items() {
            places.visit_item(&item);
        }
        let at = |line: usize| format!("{path}:{line}");
        chains.extend(places.chains.into_iter().map(at));
        closures.extend(places.closures.into_iter().map(at));
    }
    assert!(
        chains.is_empty(),
        "of more than {MAX_CALLS} calls: {chains:#?}"
    );
    assert!(
        closures.is_empty(),
        "of more than {MAX_CLOSURE_LINES} lines, without a name: {closures:#?}"
    );
}
