use super::Status;
use crate::scheme::Scheme;

/// `sealgate schemes`: lists the schemes, or describes one and prints its file.
pub(super) fn schemes(id: Option<&str>) -> anyhow::Result<Status> {
    let Some(id) = id else {
        print!("{}", Scheme::list());
        return Ok(Status::Done);
    };
    match (Scheme::builtin(id), Scheme::builtin_text(id)) {
        (Some(scheme), Some(text)) => {
            println!("{}\n{text}", scheme.describe());
            Ok(Status::Done)
        }
        _ => {
            eprintln!("error: no scheme is called {id}; `sealgate schemes` lists them");
            Ok(Status::Wrong)
        }
    }
}
