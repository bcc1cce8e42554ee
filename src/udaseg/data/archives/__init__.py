"""Published archives: what is known of them, fetching them, and unpacking them with every file checked."""
