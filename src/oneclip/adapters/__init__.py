"""Models behind the interfaces of other packages."""
