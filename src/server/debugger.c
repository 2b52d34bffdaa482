#include "debugger.h"

#include <stddef.h>

// The script is in the program itself (gdb's manual, "The .debug_gdb_scripts section"): 4 says that it is Python text,
// which follows with its name as the first line and ends with a zero byte. It gets a namespace of its own beside what
// the user of gdb has. The section is not loaded into memory, and goes when debugging symbols are stripped.
__asm__(".pushsection .debug_gdb_scripts,\"\",%progbits\n"
        ".byte 4\n"
        ".ascii \"bitflow.py\\n\"\n"
        ".ascii \"exec(compile(r'''\"\n"
        ".incbin \"" BITFLOW_GDB_SCRIPTS "/bitflow_memory.py\"\n"
        ".incbin \"" BITFLOW_GDB_SCRIPTS "/bitflow_commands.py\"\n"
        ".ascii \"''', 'bitflow.py', 'exec'), {'__name__': 'bitflow'})\\n\"\n"
        ".byte 0\n"
        ".popsection\n");

// What the script begins from. Nothing in the process reads it.
__attribute__((used)) static struct {
    const struct runtime *runtime;
    const struct listeners *listeners;
} debugged_process;

void debugger_set_process(const struct runtime *runtime, const struct listeners *listeners)
{
    debugged_process.runtime = runtime;
    debugged_process.listeners = listeners;
}
