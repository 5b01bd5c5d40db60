"""The database and the artifact store."""
