//! Backstop state shared by replicas through Redis or Valkey: the response store and target health.
