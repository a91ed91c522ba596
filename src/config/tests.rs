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

/// The secret in every test configuration. It must never appear in a report.
const CANARY: &str = "canary-bird-in-a-coal-mine";
