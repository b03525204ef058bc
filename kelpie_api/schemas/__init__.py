"""The wire: which JSON may come in and which goes out, as marshmallow schemas; values only, no database."""
