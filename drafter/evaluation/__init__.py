"""What a drafter is worth: walks without decoding, decoding against plain decoding, suites, speed, intervals."""
