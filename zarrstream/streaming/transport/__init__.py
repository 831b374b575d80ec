"""One key and its bytes: from files, a synchronous store, or an event loop."""
