"""`python -m inception_tf`."""

import sys

from inception_tf.cli.main import main

sys.exit(main())
