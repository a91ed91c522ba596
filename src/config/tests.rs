use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::document::Severity;

mod properties;
mod reference;
mod secrets;
mod table;

/// A secret that must never be seen, in every configuration of the tests that has one.
const CANARY: &str = "canary-bird-in-a-coal-mine";
