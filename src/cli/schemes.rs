use super::{Status, err, out};
use crate::scheme::Scheme;

/// `sealgate schemes`: lists the schemes, or describes one and prints its file.
pub(super) fn schemes(id: Option<&str>) -> anyhow::Result<Status> {
    let Some(id) = id else {
        out!("{}", Scheme::list())?;
        return Ok(Status::Success);
    };
    match (Scheme::builtin(id), Scheme::builtin_text(id)) {
        (Some(scheme), Some(text)) => {
            out!("{}\n{text}\n", scheme.describe())?;
            Ok(Status::Success)
        }
        _ => {
            report_unknown(id);
            Ok(Status::Invalid)
        }
    }
}

/// Reports that no scheme has this name.
pub(super) fn report_unknown(id: &str) {
    let help = match Scheme::suggestion(id, std::iter::empty()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`sealgate schemes` lists all schemes".to_owned(),
    };
    err!("error: unknown scheme `{id}`; {help}\n");
}
