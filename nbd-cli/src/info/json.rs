//! For programs, with nbdinfo's keys.

use nbd_client_blocking::proto::HeaderStyle;
use serde_json::{Map, Value, json};

use crate::compat;

use super::describe::{ABILITIES, Described, Session};

pub(super) fn render(session: &Session, exports: &[Described]) -> String {
    let mut map = Map::new();
    if compat::program() == "nbd" {
        // Of the keys, which docs/json.md tells; nbdinfo has none.
        map.insert("version".to_owned(), json!(1));
    }
    map.insert("protocol".to_owned(), json!(session.protocol));
    super::tls::json(&mut map, session.tls.as_ref());
    map.insert("structured".to_owned(), json!(session.headers != HeaderStyle::Simple));
    map.insert("extended".to_owned(), json!(session.headers == HeaderStyle::Extended));
    let exports = exports.iter().map(export).collect::<Vec<_>>();
    map.insert("exports".to_owned(), Value::Array(exports));
    format!("{:#}\n", Value::Object(map))
}

fn export(export: &Described) -> Value {
    let mut map = Map::new();
    map.insert("export-name".to_owned(), json!(export.name));
    if let Some(text) = &export.description {
        map.insert("description".to_owned(), json!(text));
    }
    let info = match &export.info {
        Ok(info) => info,
        Err(reason) => {
            map.insert("error".to_owned(), json!(reason));
            return Value::Object(map);
        }
    };
    if let Some(content) = &export.content {
        map.insert("content".to_owned(), json!(content));
    }
    if let Some(uri) = &export.uri {
        map.insert("uri".to_owned(), json!(uri));
    }
    // What is not known is null, which no list is.
    map.insert("contexts".to_owned(), json!(export.contexts.as_ref().ok()));
    if let Err(reason) = &export.contexts {
        map.insert("contexts-error".to_owned(), json!(reason));
    }
    for (name, flag) in ABILITIES {
        map.insert(name.to_owned(), json!(info.flags.contains(flag)));
    }
    if let Some(sizes) = info.block_sizes {
        map.insert("block_size_minimum".to_owned(), json!(sizes.minimum));
        map.insert("block_size_preferred".to_owned(), json!(sizes.preferred));
        map.insert("block_size_maximum".to_owned(), json!(sizes.maximum));
    }
    map.insert("export-size".to_owned(), json!(info.size));
    map.insert("export-size-str".to_owned(), json!(crate::size::format(info.size)));
    Value::Object(map)
}
