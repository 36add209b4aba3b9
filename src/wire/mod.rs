//! Mechanisms of HTTP without product knowledge: heads, problem documents.

pub mod head;
pub mod problem;
