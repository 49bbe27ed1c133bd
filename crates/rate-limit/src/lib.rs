//! A tower layer that notices a provider's rate limit, remembers it, and acts before the next refusal.
