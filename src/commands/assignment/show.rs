//! Showing what an assignment holds.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use common::assignment::{AssignmentReader, Base, Command as Step, Content, Limits};
use common::keys::PublishKey;
use serde_json::{Value, json};

use super::{Answer, AssignmentCommandError, kind, open_file, wrong_assignment};
use crate::output::{bytes, plain};

pub(super) fn show(path: &Path) -> Result<Answer, AssignmentCommandError> {
    let length = fs::metadata(path).map_or(0, |found| found.len());
    let reader =
        AssignmentReader::open_unchecked(open_file(path)?, &Limits::default()).map_err(wrong_assignment(path))?;
    let (header, epoch) = (reader.header(), reader.key_epoch());
    let base = match header.base {
        Base::Any => None,
        Base::Version(version) => Some(version.to_string()),
    };
    let steps: Vec<Value> = reader.commands().iter().map(step_value).collect();
    let value = json!({
        "file": path, "bytes": length, "site": header.site, "group": header.group, "kind": kind(header.kind),
        "assignment": header.number.0, "sequence": header.sequence.0, "base": base,
        "result": header.result.to_string(), "result_entries": header.result_entries,
        "result_bytes": header.result_bytes, "space_bytes": header.space_bytes, "data_bytes": header.data_bytes,
        "blocks": reader.blocks().len(), "exclude": header.live.exclude, "created_ms": header.created.0,
        "expires_ms": header.expires.0, "key_epoch": epoch, "unsigned": epoch == PublishKey::of_nobody().epoch,
        "commands": steps,
    });
    let mut words = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(words, "{line}").expect("writing to a string");
    line(format_args!("{} {} of {}", kind(header.kind), header.number.0, plain(header.site.as_str())));
    line(format_args!("base     {}", base.as_deref().unwrap_or("any")));
    line(format_args!(
        "result   {} ({} entries, {})",
        header.result,
        header.result_entries,
        bytes(header.result_bytes)
    ));
    line(format_args!(
        "size     {}, of which {} in {} blocks",
        bytes(length),
        bytes(header.data_bytes),
        reader.blocks().len()
    ));
    let unsigned = epoch == PublishKey::of_nobody().epoch;
    if unsigned {
        line(format_args!("signed   by nobody"));
    } else {
        line(format_args!("signed   by a publish key of epoch {epoch}, not checked"));
    }
    for step in reader.commands() {
        line(format_args!("{}", step_words(step)));
    }
    Ok((value, words))
}

fn step_value(step: &Step) -> Value {
    match step {
        Step::MakeDirectory { path, mode } => json!({ "make_directory": path.as_str(), "mode": format!("{mode:o}") }),
        Step::MakeSymlink { path, target } => json!({ "make_symlink": path.as_str(), "target": target }),
        Step::SetMode { path, mode } => json!({ "set_mode": path.as_str(), "mode": format!("{mode:o}") }),
        Step::Remove { path } => json!({ "remove": path.as_str() }),
        Step::WriteFile { path, mode, mtime, size, content, .. } => {
            let from = match content {
                Content::Blocks(_) => json!("data"),
                Content::Copy { from } => json!({ "copy_of": from.as_str() }),
                Content::Local => json!("local"),
            };
            let mode = format!("{mode:o}");
            json!({ "write": path.as_str(), "size": size, "mode": mode, "mtime": mtime, "content": from })
        }
    }
}

fn step_words(step: &Step) -> String {
    match step {
        Step::MakeDirectory { path, .. } => format!("  make     {}/", plain(path.as_str())),
        Step::MakeSymlink { path, target } => format!("  link     {} -> {}", plain(path.as_str()), plain(target)),
        Step::SetMode { path, mode } => format!("  mode     {} {mode:o}", plain(path.as_str())),
        Step::Remove { path } => format!("  remove   {}", plain(path.as_str())),
        Step::WriteFile { path, size, content, .. } => match content {
            Content::Copy { from } => format!("  copy     {} from {}", plain(path.as_str()), plain(from.as_str())),
            Content::Blocks(_) | Content::Local => format!("  write    {} ({})", plain(path.as_str()), bytes(*size)),
        },
    }
}
