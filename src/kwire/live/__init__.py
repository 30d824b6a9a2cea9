"""Live tracing: joins lang, compile, kernel, capture and view into one running trace."""
