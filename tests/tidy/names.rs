//! A name says what a thing is without its module, and stands for one thing in its crate.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Ident, ItemConst, ItemEnum, ItemStatic, ItemStruct, ItemTrait, ItemType};

use crate::sources::{CRATES, sources};

/// Types that each room may have: the module before them says whose they are.
const SHARED_NAMES: [&str; 3] = ["Error", "Config", "Args"];

/// Names of constants that do not say what they bound.
const VAGUE_CONSTANTS: [&str; 8] = [
    "AGAIN", "ANEW", "DELAY", "LOOK", "PATIENCE", "SOON", "TIMEOUT", "WAIT",
];

/// Names of types that the field has a term for: a lease, a batch, a permit.
const PRIVATE_WORDS: [&str; 15] = [
    "Brake",
    "Cap",
    "Cover",
    "Desk",
    "Engine",
    "Errand",
    "Gathering",
    "Joining",
    "Kin",
    "Mistake",
    "Occupant",
    "Party",
    "Seat",
    "Staged",
    "Suspects",
];

/// Parts of names of variables, fields and functions that the field has a term for.
const PRIVATE_PARTS: [&str; 18] = [
    "anew", "brake", "bury", "company", "desk", "engine", "errand", "guilty", "kin", "orders",
    "party", "said", "seat", "standing", "told", "unsaid", "unseated", "whoever",
];

/// The names that a file declares or uses.
#[derive(Default)]
struct Names {
    types: Vec<String>,
    constants: Vec<String>,
    identifiers: BTreeSet<String>,
}

impl Names {
    fn add_type(&mut self, name: &Ident) {
        self.types.push(name.to_string());
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_ident(&mut self, ident: &'ast Ident) {
        self.identifiers.insert(ident.to_string());
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.add_type(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.add_type(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.add_type(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast ItemType) {
        self.add_type(&item.ident);
    }

    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        self.constants.push(item.ident.to_string());
    }

    fn visit_item_static(&mut self, item: &'ast ItemStatic) {
        self.constants.push(item.ident.to_string());
    }
}

/// The types of each crate with the files that declare them; all constants and all identifiers with their file.
struct Declared {
    types: BTreeMap<(&'static str, String), Vec<String>>,
    constants: BTreeSet<(String, String)>,
    identifiers: BTreeSet<(String, String)>,
}

fn declared() -> Declared {
    let mut types = BTreeMap::<_, Vec<_>>::new();
    let (mut constants, mut identifiers) = (BTreeSet::new(), BTreeSet::new());
    for source in sources() {
        let path = source.path.display().to_string();
        let mut names = Names::default();
        source
            .items()
            .iter()
            .for_each(|item| names.visit_item(item));
        for name in names.types {
            types
                .entry((source.crate_dir, name))
                .or_default()
                .push(path.clone());
        }
        let with_path = |name: String| (name, path.clone());
        constants.extend(names.constants.into_iter().map(with_path));
        identifiers.extend(names.identifiers.into_iter().map(with_path));
    }
    Declared {
        types,
        constants,
        identifiers,
    }
}

#[test]
fn no_name_stands_for_two_types_of_a_crate() {
    let declared = declared().types;
    assert!(
        CRATES
            .iter()
            .all(|dir| declared.keys().any(|(of, _)| of == dir)),
        "all were read"
    );
    let twice: Vec<_> = declared
        .into_iter()
        .filter(|((_, name), paths)| paths.len() > 1 && !SHARED_NAMES.contains(&name.as_str()))
        .collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

#[test]
fn a_constant_says_what_it_bounds() {
    let vague: Vec<_> = declared()
        .constants
        .into_iter()
        .filter(|(name, _)| VAGUE_CONSTANTS.contains(&name.as_str()))
        .collect();
    assert!(vague.is_empty(), "{vague:#?}");
}

#[test]
fn a_type_is_named_in_the_fields_words() {
    let private: Vec<_> = declared()
        .types
        .into_iter()
        .filter(|((_, name), _)| PRIVATE_WORDS.contains(&name.as_str()))
        .collect();
    assert!(private.is_empty(), "{private:#?}");
}

#[test]
fn variables_and_functions_are_named_in_the_fields_words() {
    let identifiers = declared().identifiers;
    assert!(identifiers.len() > 5_000, "all were read");
    let is_private = |name: &str| name.split('_').any(|part| PRIVATE_PARTS.contains(&part));
    let private: Vec<_> = identifiers
        .into_iter()
        .filter(|(name, _)| is_private(name))
        .collect();
    assert!(private.is_empty(), "{private:#?}");
}
