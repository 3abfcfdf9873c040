"""One module per command of the `relic` program; `relic.cli` names them."""
