from busmt.cli.main import main

main()
