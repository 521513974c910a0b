//! The configuration format: text in, values or diagnostics out.
