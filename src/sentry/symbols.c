#include "symbols.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// `size` bytes at `offset`, or NULL if the file does not have them.
static const void *part(const struct symbols *symbols, uint64_t offset, uint64_t size)
{
    if (offset > symbols->size || size > symbols->size - offset)
        return NULL;
    return symbols->image + offset;
}

static const ElfW(Shdr) * sections(const struct symbols *symbols, size_t *count)
{
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)symbols->image;
    *count = header->e_shnum;
    return part(symbols, header->e_shoff, sizeof(ElfW(Shdr)) * (uint64_t)header->e_shnum);
}

static void find_table(struct symbols *symbols)
{
    size_t count;
    const ElfW(Shdr) *section = sections(symbols, &count);
    for (size_t i = 0; section != NULL && i < count; i++) {
        if (section[i].sh_type != SHT_SYMTAB || section[i].sh_link >= count)
            continue;
        const ElfW(Shdr) *names = &section[section[i].sh_link];
        symbols->table = part(symbols, section[i].sh_offset, section[i].sh_size);
        symbols->count = section[i].sh_size / sizeof(ElfW(Sym));
        symbols->names = part(symbols, names->sh_offset, names->sh_size);
        symbols->names_size = names->sh_size;
        // Every name then ends within it.
        if (symbols->names == NULL || names->sh_size == 0 || symbols->names[names->sh_size - 1] != '\0')
            symbols->table = NULL;
        return;
    }
}

static void look_for_build_id(struct symbols *symbols, const unsigned char *notes, uint64_t size)
{
    while (notes != NULL && size >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) note;
        memcpy(&note, notes, sizeof note);
        uint64_t name_size = ((uint64_t)note.n_namesz + 3) & ~UINT64_C(3);
        uint64_t id_size = ((uint64_t)note.n_descsz + 3) & ~UINT64_C(3);
        if (name_size + id_size > size - sizeof note)
            return;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof "GNU" &&
            memcmp(notes + sizeof note, "GNU", sizeof "GNU") == 0) {
            symbols->build_id = notes + sizeof note + name_size;
            symbols->build_id_size = note.n_descsz;
            return;
        }
        notes += sizeof note + name_size + id_size;
        size -= sizeof note + name_size + id_size;
    }
}

static void read_segments(struct symbols *symbols)
{
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)symbols->image;
    const ElfW(Phdr) *segment = part(symbols, header->e_phoff, sizeof *segment * (uint64_t)header->e_phnum);
    for (size_t i = 0; segment != NULL && i < header->e_phnum; i++) {
        uint64_t end = segment[i].p_vaddr + segment[i].p_memsz;
        if (segment[i].p_type == PT_NOTE && symbols->build_id == NULL)
            look_for_build_id(symbols, part(symbols, segment[i].p_offset, segment[i].p_filesz), segment[i].p_filesz);
        else if (segment[i].p_type == PT_LOAD && end > symbols->memory_size)
            symbols->memory_size = end;
    }
}

void symbols_init(struct symbols *symbols)
{
    *symbols = (struct symbols){.image = NULL};
    struct stat status;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    void *image = MAP_FAILED;
    if (fstat(fd, &status) == 0 && (size_t)status.st_size >= sizeof(ElfW(Ehdr)))
        image = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    (void)close(fd);
    if (image == MAP_FAILED)
        return;
    symbols->image = image;
    symbols->size = (size_t)status.st_size;
    find_table(symbols);
    read_segments(symbols);
}

void symbols_release(struct symbols *symbols)
{
    if (symbols->image != NULL)
        (void)munmap((void *)symbols->image, symbols->size);
    *symbols = (struct symbols){.image = NULL};
}

const char *symbols_find(const struct symbols *symbols, uint64_t offset)
{
    const ElfW(Sym) *table = symbols->table;
    for (size_t i = 0; table != NULL && i < symbols->count; i++)
        if ((table[i].st_info & 0xf) == STT_FUNC && offset >= table[i].st_value &&
            offset - table[i].st_value < table[i].st_size && table[i].st_name < symbols->names_size)
            return symbols->names + table[i].st_name;
    return NULL;
}
