//! A fallback model for tower services: timeout classifier, rate-limit detector, failover, cached-response fallback.
