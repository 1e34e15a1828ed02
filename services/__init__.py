"""One folder per independently deployable service; a service never imports another."""
