"""`app`, made from the environment: what gunicorn serves."""

import os

from kelpie_api.app import create_app
from kelpie_api.config import Config

app = create_app(Config.from_env(os.environ))
