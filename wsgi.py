"""`app` for `gunicorn wsgi:app` from a checkout; installed it is `kelpie-server serve`."""

from kelpie_api.wsgi import app as app
