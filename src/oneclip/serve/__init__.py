"""HTTP server: embeddings, classification and search, and a page to look at. Needs the extra `oneclip[serve]`."""
