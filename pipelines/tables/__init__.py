"""Vector tables: creating, committing, indexing, rotating and maintaining them."""
