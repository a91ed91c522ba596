//! The structure of `src`: what each file defines and imports, read with `syn`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Item, Meta, UseTree, Visibility,
    visit::{self, Visit},
};

use super::project;

/// The modules in the order of the table in ARCHITECTURE.md: each imports only from those before
/// it.
fn order() -> Vec<String> {
    let text = fs::read_to_string(project().join("ARCHITECTURE.md")).expect("readable");
    let rows = text.lines().skip_while(|line| !line.starts_with("| module ")).skip(2);
    let cells = rows.map_while(|line| line.strip_prefix("| ")?.split(" |").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

/// One file of `src`, without its tests.
struct Source {
    /// Relative to `src`.
    path: PathBuf,
    /// The module path: empty for `lib.rs`.
    module: Vec<String>,
    text: String,
    /// The names of its items, with whether each is a type.
    items: Vec<(String, bool)>,
    /// What it re-exports under which name.
    exports: Vec<(String, Vec<String>)>,
    /// Absolute paths that it names, without those that it only re-exports.
    imports: Vec<Vec<String>>,
}

/// Whether a path inside `src` holds tests only. Directories above the project do not count.
pub(super) fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// Every `.rs` file below `root`, relative to it.
pub(super) fn rust_files(root: &Path) -> Vec<PathBuf> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(root.join(dir)).expect("a directory") {
            let path = dir.join(entry.expect("an entry").file_name());
            if root.join(&path).is_dir() {
                walk(root, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, Path::new(""), &mut found);
    found.sort();
    found
}

/// The module path of a file: `gate/observe.rs` is `["gate", "observe"]`.
fn module_of(path: &Path) -> Vec<String> {
    let name = path.with_extension("");
    let parts = name.iter().map(|part| part.to_string_lossy().into_owned());
    parts.filter(|part| part != "lib").collect()
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => {
            list.path.is_ident("cfg")
                && list.tokens.to_string().split(' ').any(|word| word == "test")
        }
        Meta::Path(_) | Meta::NameValue(_) => false,
    })
}

/// Makes a path absolute, seen from `module`; `None` if it leads out of the crate.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module[..module.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    let mut rest = &path[1..];
    while let Some((first, tail)) = rest.split_first().filter(|(first, _)| *first == "super") {
        let _ = first;
        base.pop()?;
        rest = tail;
    }
    base.extend(rest.iter().filter(|part| *part != "self").cloned());
    Some(base)
}

/// The leaves of a `use` tree: the path of each, and the name that it brings in.
fn leaves(tree: &UseTree, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, String)>) {
    match tree {
        UseTree::Path(inner) => {
            path.push(inner.ident.to_string());
            leaves(&inner.tree, path, found);
            path.pop();
        }
        UseTree::Name(name) => {
            let whole = [path.as_slice(), &[name.ident.to_string()]].concat();
            let known = whole.iter().rev().find(|part| *part != "self").cloned();
            found.push((whole, known.unwrap_or_default()));
        }
        UseTree::Rename(renamed) => {
            let whole = [path.as_slice(), &[renamed.ident.to_string()]].concat();
            found.push((whole, renamed.rename.to_string()));
        }
        UseTree::Glob(_) => found.push((path.clone(), "*".to_owned())),
        UseTree::Group(group) => {
            group.items.iter().for_each(|item| leaves(item, path, found));
        }
    }
}

/// Collects the paths that code names in full: `crate::response::problem(…)`.
struct Paths<'s> {
    module: &'s [String],
    found: Vec<Vec<String>>,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.found.extend(absolute(self.module, &parts));
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, _: &'ast syn::ItemUse) {}
}

impl Source {
    fn read(root: &Path, path: PathBuf) -> Source {
        let text = fs::read_to_string(root.join(&path)).expect("readable");
        Source::parse(path, text)
    }

    fn parse(path: PathBuf, text: String) -> Source {
        let module = module_of(&path);
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (mut items, mut exports) = (Vec::new(), Vec::new());
        let mut paths = Paths { module: &module, found: Vec::new() };
        for item in &file.items {
            let (attributes, name, is_type) = match item {
                Item::Struct(item) => (&item.attrs, &item.ident, true),
                Item::Enum(item) => (&item.attrs, &item.ident, true),
                Item::Trait(item) => (&item.attrs, &item.ident, true),
                Item::Type(item) => (&item.attrs, &item.ident, true),
                Item::Fn(item) => (&item.attrs, &item.sig.ident, false),
                Item::Const(item) => (&item.attrs, &item.ident, false),
                Item::Static(item) => (&item.attrs, &item.ident, false),
                Item::Use(item) if !is_for_tests(&item.attrs) => {
                    let mut found = Vec::new();
                    leaves(&item.tree, &mut Vec::new(), &mut found);
                    let private = matches!(item.vis, Visibility::Inherited);
                    for (whole, name) in found {
                        let Some(whole) = absolute(&module, &whole) else { continue };
                        if private {
                            paths.found.push(whole);
                        } else {
                            exports.push((name, whole));
                        }
                    }
                    continue;
                }
                _ => continue,
            };
            if !is_for_tests(attributes) {
                items.push((name.to_string(), is_type));
            }
        }
        paths.visit_file(&file);
        let imports = paths.found;
        Source { path, module, text, items, exports, imports }
    }

    /// How many lines come before the tests.
    fn lines(&self) -> usize {
        self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("").lines().count()
    }
}

/// The files of a crate whose sources are in `root`, tests left out.
fn sources(root: &str) -> Vec<Source> {
    let root = project().join(root);
    let files = rust_files(&root).into_iter().filter(|path| !is_test(path));
    let mut sources: Vec<_> = files.map(|path| Source::read(&root, path)).collect();
    // Without a library, `main.rs` is the root.
    if sources.iter().all(|source| !source.module.is_empty()) {
        let main = sources.iter_mut().find(|source| source.path == Path::new("main.rs"));
        main.expect("a root").module.clear();
    }
    assert!(sources.len() > 5, "the sources are found: {}", sources.len());
    sources
}

/// The file that defines what an absolute path leads to, through re-exports.
fn definition(sources: &BTreeMap<&[String], &Source>, path: &[String], hops: usize) -> PathBuf {
    let long = (0..=path.len()).rev().find(|length| sources.contains_key(&path[..*length]));
    let source = sources[&path[..long.expect("the crate's root")]];
    let rest = &path[source.module.len()..];
    let export = rest.first().filter(|_| hops > 0).and_then(|name| {
        let known = source.items.iter().any(|(item, _)| item == name);
        source.exports.iter().find(|(exported, _)| !known && exported == name)
    });
    match export {
        Some((_, to)) => definition(sources, &[to.as_slice(), &rest[1..]].concat(), hops - 1),
        None => source.path.clone(),
    }
}

/// Which files each file imports from, re-exports followed to where an item is defined. A parent
/// module defines what its children share, so an import from a file's own ancestors does not count.
fn imports(sources: &[Source]) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let by_module = sources.iter().map(|source| (source.module.as_slice(), source)).collect();
    let of = |source: &Source| {
        let paths = source.imports.iter().map(|path| definition(&by_module, path, 4));
        paths.filter(|path| !source.module.starts_with(&module_of(path))).collect()
    };
    sources.iter().map(|source| (source.path.clone(), of(source))).collect()
}

/// The imports that lead from a module to one after it in the table.
fn upward(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<String> {
    let modules = order();
    let rank = |path: &Path| {
        let module = module_of(path).into_iter().next().unwrap_or_default();
        modules.iter().position(|known| *known == module).unwrap_or_else(|| {
            panic!("{module} ({}) is missing in the table of modules", path.display())
        })
    };
    let pairs = imports.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    pairs
        .filter(|(from, to)| from.as_os_str() != "lib.rs" && rank(from) < rank(to))
        .map(|(from, to)| format!("{} imports from {}", from.display(), to.display()))
        .collect()
}

/// The files that lead back to themselves by their imports, with the shortest such cycle of each.
fn cycles(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for start in imports.keys() {
        let mut from = BTreeMap::<&PathBuf, &PathBuf>::new();
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(file) = queue.pop_front() {
            for next in &imports[file] {
                if next == start {
                    let mut cycle: Vec<&PathBuf> = vec![file];
                    while let Some(before) = from.get(cycle[cycle.len() - 1]) {
                        cycle.push(before);
                    }
                    let mut names: Vec<_> = cycle.iter().map(|p| p.display().to_string()).collect();
                    names.sort();
                    found.insert(names);
                    queue.clear();
                    break;
                }
                if !from.contains_key(next) {
                    from.insert(next, file);
                    queue.push_back(next);
                }
            }
        }
    }
    found
}

/// A crate of two files, for the tests of the test.
fn pair(first: &str, second: &str) -> Vec<Source> {
    let root = "pub(crate) mod gate; pub(crate) mod server;";
    [("lib.rs", root), ("gate.rs", first), ("server.rs", second)]
        .into_iter()
        .map(|(path, text)| Source::parse(PathBuf::from(path), text.to_owned()))
        .collect()
}

#[test]
fn modules_import_only_from_modules_before_them() {
    let up = upward(&imports(&pair("use crate::{server::{self, Server}};", "struct Server;")));
    assert_eq!(up, ["gate.rs imports from server.rs"]);
    let up = upward(&imports(&pair("fn f() { crate::server::g() }", "fn g() {}")));
    assert_eq!(up, ["gate.rs imports from server.rs"]);
    assert_eq!(upward(&imports(&pair("struct Gate;", "use crate::gate::Gate;"))), [""; 0]);
    let test = "#[cfg(test)] mod tests { use crate::server::Server; }";
    assert_eq!(upward(&imports(&pair(test, "struct Server;"))), [""; 0]);
    assert_eq!(upward(&imports(&sources("src"))), [""; 0]);
}

#[test]
fn no_files_import_each_other() {
    let both = pair("use crate::server::Server; struct Gate;", "use super::gate::Gate;");
    assert_eq!(cycles(&imports(&both)).len(), 1);
    let through_export = [
        ("lib.rs", "mod gate;"),
        ("gate.rs", "mod a; mod b; pub use self::a::A; use self::b::B;"),
        ("gate/a.rs", "pub struct A;"),
        ("gate/b.rs", "use super::A; pub struct B;"),
    ];
    let sources_of = |files: &[(&str, &str)]| -> Vec<Source> {
        let parsed =
            files.iter().map(|(path, text)| Source::parse(path.into(), (*text).to_owned()));
        parsed.collect()
    };
    assert!(cycles(&imports(&sources_of(&through_export))).is_empty());
    let found = cycles(&imports(&sources("src")));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_type_name_has_one_meaning() {
    let sources = sources("src");
    let mut known = BTreeMap::<&str, Vec<String>>::new();
    for source in &sources {
        for (name, _) in source.items.iter().filter(|(_, is_type)| *is_type) {
            known.entry(name).or_default().push(source.path.display().to_string());
        }
    }
    known.retain(|_, files| files.len() > 1);
    assert!(known.is_empty(), "{known:#?}");
}

/// Collects the public items of a file that have no doc comment.
struct Undocumented(Vec<String>);

impl Undocumented {
    fn check(&mut self, visibility: &Visibility, attributes: &[syn::Attribute], name: &syn::Ident) {
        let documented = attributes.iter().any(|attribute| attribute.path().is_ident("doc"));
        if matches!(visibility, Visibility::Public(_)) && !documented {
            self.0.push(name.to_string());
        }
    }
}

impl<'ast> Visit<'ast> for Undocumented {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check(&item.vis, &item.attrs, &item.sig.ident);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check(&item.vis, &item.attrs, &item.sig.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.check(&item.vis, &item.attrs, &item.ident);
        for variant in &item.variants {
            self.check(&item.vis, &variant.attrs, &variant.ident);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.check(&item.vis, &item.attrs, &item.ident);
        for field in &item.fields {
            if let Some(name) = &field.ident {
                self.check(&field.vis, &field.attrs, name);
            }
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) && module.ident != "internals" {
            visit::visit_item_mod(self, module);
        }
    }
}

/// The compiler finds unused items but checks only what is visible outside of the crate for
/// comments.
#[test]
fn public_items_are_documented() {
    for source in sources("src") {
        let mut undocumented = Undocumented(Vec::new());
        undocumented.visit_file(&syn::parse_file(&source.text).expect("parsed before"));
        assert_eq!(undocumented.0, [""; 0], "{}", source.path.display());
    }
}

#[test]
fn files_are_short_and_finished() {
    let forbidden = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"];
    for source in sources("src") {
        let (path, lines) = (source.path.display(), source.lines());
        for word in forbidden {
            assert!(!source.text.contains(word), "{word} in {path}");
        }
        assert!(lines <= 400, "{path} has {lines} lines before its tests");
        let is_gate = source.path == Path::new("gate.rs");
        assert!(lines < 150 || !is_gate, "{path} has {lines} lines");
        let tests = source.text.lines().count() - lines;
        assert!(tests <= 150, "{path}: move {tests} lines of tests to a file");
    }
}

/// The kind of a `use`: standard library, other crates, own.
fn kind(line: &str) -> Option<u8> {
    let path = line.strip_prefix("use ").or_else(|| line.strip_prefix("pub use "))?;
    Some(match path.split([':', ';', ' ', '{']).next()? {
        "std" => 0,
        "crate" | "super" | "self" => 2,
        _ => 1,
    })
}

/// The first `use` that comes after a later kind.
fn misplaced(code: &str) -> Option<&str> {
    let mut last = 0;
    code.lines().find(|line| {
        kind(line).is_some_and(|kind| {
            let wrong = kind < last;
            last = last.max(kind);
            wrong
        })
    })
}

#[test]
fn imports_are_ordered_standard_library_other_crates_own() {
    assert_eq!(misplaced("use crate::a;\nuse std::b;"), Some("use std::b;"));
    assert_eq!(misplaced("use std::b;\nuse bytes::Bytes;\nuse crate::a;"), None);
    for source in sources("src") {
        assert_eq!(misplaced(&source.text), None, "{}", source.path.display());
    }
}
