"""The collector: sessions of many agents, stored in captures."""
