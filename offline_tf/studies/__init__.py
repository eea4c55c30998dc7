"""Many runs: what a study is, where its runs are worked, how far they are."""
