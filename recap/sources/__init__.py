"""Where pictures come from: each module turns one kind of source into rows for ingestion."""
