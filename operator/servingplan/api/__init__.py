"""The wire: what users write and read. One module per API version, the CRD's schema generated from it."""
