//! The rules that the project's files follow: which module may import from which, how files are
//! written, and which dependencies are allowed.
#![cfg(test)]

mod dependencies;
mod modules;
mod wording;

use std::path::Path;

/// The root of the project.
fn project() -> &'static Path {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    house.ancestors().nth(2).expect("tests/house is two levels below the root")
}
