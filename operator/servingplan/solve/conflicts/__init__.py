"""Why there is no plan, and which changes would allow one."""
