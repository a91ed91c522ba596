use super::Status;
use crate::scheme::Scheme;

/// `sealgate schemes`: lists the schemes, or prints one.
pub(super) fn schemes(id: Option<&str>) -> anyhow::Result<Status> {
    match id {
        None => {
            for id in Scheme::builtin_ids() {
                println!("{id}");
            }
            Ok(Status::Done)
        }
        Some(id) => match Scheme::builtin_text(id) {
            Some(text) => {
                print!("{text}");
                Ok(Status::Done)
            }
            None => {
                eprintln!("error: no scheme is called {id}; `sealgate schemes` lists them");
                Ok(Status::Wrong)
            }
        },
    }
}
