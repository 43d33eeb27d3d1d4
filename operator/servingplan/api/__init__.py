"""The wire formats that users write and read. Each API version has one module, and the CRD's schema is generated from it."""
