# shellcheck shell=bash
setup_uml() { die 69 "not yet"; }
