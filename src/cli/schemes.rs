use super::Status;
use crate::scheme::Scheme;

/// `sealgate schemes`: lists the schemes, or describes one and prints its file.
pub(super) fn schemes(id: Option<&str>) -> anyhow::Result<Status> {
    let Some(id) = id else {
        print!("{}", Scheme::list());
        return Ok(Status::Success);
    };
    match (Scheme::builtin(id), Scheme::builtin_text(id)) {
        (Some(scheme), Some(text)) => {
            println!("{}\n{text}", scheme.describe());
            Ok(Status::Success)
        }
        _ => {
            let help = match Scheme::suggestion(id, std::iter::empty()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`sealgate schemes` lists all schemes".to_owned(),
            };
            eprintln!("error: unknown scheme `{id}`; {help}");
            Ok(Status::Invalid)
        }
    }
}
