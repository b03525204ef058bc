"""What `gunicorn wsgi:app` reads in a checkout; installed it is `kelpie-server serve`."""

from kelpie_api.gunicorn_conf import *
