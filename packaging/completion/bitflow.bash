# Completion of bitflow's options and commands in bash.

_bitflow()
{
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words
    local asking='--socket --config --proxy --process --signal --timeout --json --help'
    case $COMP_CWORD:${COMP_WORDS[1]} in
    1:*) words='--config --check --strict --version --help control health' ;;
    *:control)
        words="$asking health ready connections connection proxies processes config metrics end reload reopen-logs drain"
        ;;
    *:health) words=$asking ;;
    *) words='--config --check --strict --version --help' ;;
    esac
    COMPREPLY=()
    case $previous in
    -c | --config)
        mapfile -t COMPREPLY < <(compgen -f -X '!*.yaml' -- "$current"
            compgen -f -X '!*.yml' -- "$current"
            compgen -d -- "$current")
        ;;
    # What only the user knows.
    -s | --socket | -p | --proxy | -P | --process | -S | --signal | -t | --timeout | connection | end) ;;
    -V | --version | -h | --help) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;
    esac
}

complete -o filenames -F _bitflow bitflow
