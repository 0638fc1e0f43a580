//! Bodies about meta contexts.

use alloc::string::String;
use alloc::vec::Vec;

use super::push_string;
use crate::error::InvalidMessage;
use crate::types::ContextId;
use crate::wire::reader::{Reader, text};

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct MetaContextRequest {
    /// The export meant.
    pub export: String,
    /// What is asked for; when listing, none means everything.
    pub queries: Vec<String>,
}

impl MetaContextRequest {
    /// Appends the data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_string(out, &self.export);
        out.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        for query in &self.queries {
            push_string(out, query);
        }
    }

    /// Reads the data.
    ///
    /// # Errors
    /// When it is truncated, has trailing bytes, or a string is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        let export = String::from(body.string()?);
        let count = body.u32()?;
        let mut queries = Vec::new();
        // Each query takes at least four bytes of the body that is already
        // here, so the count cannot make this grow beyond it.
        for _ in 0..count {
            queries.push(String::from(body.string()?));
        }
        body.end()?;
        Ok(Self { export, queries })
    }
}

/// Data of `NBD_REP_META_CONTEXT`: a context and the number replies use for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct MetaContext {
    /// Number in block status chunks; meaningless in a list.
    pub id: ContextId,
    /// Name, such as `base:allocation`.
    pub name: String,
}

impl MetaContext {
    /// Appends the data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0.to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
    }

    /// Reads the data.
    ///
    /// # Errors
    /// When the name is empty, lacks the colon between namespace and leaf
    /// (proto.md, "Metadata querying"), or is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        let id = ContextId(body.u32()?);
        let name = text(body.rest())?;
        if !name.contains(':') {
            return Err(InvalidMessage::ContextName);
        }
        Ok(Self { id, name: String::from(name) })
    }
}
