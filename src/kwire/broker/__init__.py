"""A broker between agents and collectors: NATS JetStream. docs/fleet.md says what is promised."""
