"""Vectors and documents on disk: FAISS, SQLite, the index folder. Knows no model and no command line."""
