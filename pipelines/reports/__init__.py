"""What people look at: one HTML page from results, and what terminals show."""
