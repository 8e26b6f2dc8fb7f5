"""Methods side by side: how sure a difference is, what it is worth in time, and the pictures of it."""
