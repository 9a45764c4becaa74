"""What is compared. Each module here has one or a few scenarios that belong together; `ALL` lists them in the order of
the report."""
