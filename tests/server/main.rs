//! The real binary, started as an operator starts it and asked as a client asks it.

mod answers;
mod commands;
mod connections;
mod drain;
mod harness;
mod hostile;
mod observability;
mod overload;
mod refusals;
mod startup;
