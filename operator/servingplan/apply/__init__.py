"""EFFECT. Carries decided actions out, one result per action; decides nothing."""
