/*
 * A PKCS#11 module that is SoftHSM until a file says otherwise: a device that
 * fails can't be had from software tokens. KMS_WRAP_TEST_TROUBLE names a
 * directory; while it holds a file "fail", every encryption and decryption
 * answers with the code in it, while it holds "encrypt", every C_EncryptInit
 * does, and while it holds "reject", every decryption that fails. Each
 * C_Login adds a byte to "logins".
 *
 * The function list is a version and then pointers in the order of the
 * standard (PKCS#11 2.40, section 5.1), so no header is needed.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long ulong;
typedef ulong (*function)(void);

enum { LOGIN = 18, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT = 34, FUNCTIONS = 68 };

struct list {
    unsigned char version[2];
    function functions[FUNCTIONS];
};

static struct list ours;
static const struct list *real;

static FILE *trouble(const char *name, const char *mode)
{
    char path[4096];
    const char *dir = getenv("KMS_WRAP_TEST_TROUBLE");

    if (dir == NULL || snprintf(path, sizeof path, "%s/%s", dir, name) >= (int) sizeof path)
        return NULL;
    return fopen(path, mode);
}

static ulong failure(const char *name)
{
    ulong code = 0;
    FILE *file = trouble(name, "r");

    if (file != NULL) {
        if (fscanf(file, "%lx", &code) != 1)
            code = 5; /* CKR_GENERAL_ERROR */
        fclose(file);
    }
    return code;
}

static ulong login(ulong session, ulong user, unsigned char *pin, ulong len)
{
    FILE *file = trouble("logins", "a");

    if (file != NULL) {
        fputc('.', file);
        fclose(file);
    }
    return ((ulong (*)(ulong, ulong, unsigned char *, ulong)) real->functions[LOGIN])(session, user, pin, len);
}

static ulong encrypt_init(ulong session, void *mechanism, ulong key)
{
    ulong code = failure("encrypt");

    return code != 0 ? code : ((ulong (*)(ulong, void *, ulong)) real->functions[ENCRYPT_INIT])(session, mechanism, key);
}

typedef ulong (*crypt)(ulong, unsigned char *, ulong, unsigned char *, ulong *);

/* An error ends the operation, so the real module ends it too. */
static ulong call(crypt operation, ulong code, ulong session, unsigned char *in, ulong in_len, unsigned char *out, ulong *out_len)
{
    unsigned char scratch[8192];
    ulong len = sizeof scratch;

    if (code == 0)
        return operation(session, in, in_len, out, out_len);
    operation(session, in, in_len, scratch, &len);
    return code;
}

static ulong encrypt(ulong session, unsigned char *in, ulong in_len, unsigned char *out, ulong *out_len)
{
    return call((crypt) real->functions[ENCRYPT], failure("fail"), session, in, in_len, out, out_len);
}

static ulong decrypt(ulong session, unsigned char *in, ulong in_len, unsigned char *out, ulong *out_len)
{
    ulong code = call((crypt) real->functions[DECRYPT], failure("fail"), session, in, in_len, out, out_len);
    ulong reject = code != 0 ? failure("reject") : 0;

    return reject != 0 ? reject : code;
}

ulong C_GetFunctionList(const struct list **list)
{
    if (real == NULL) {
        void *library = dlopen(REAL_MODULE, RTLD_NOW | RTLD_LOCAL);
        ulong (*get)(const struct list **) = library == NULL ? NULL : (ulong (*)(const struct list **)) dlsym(library, "C_GetFunctionList");

        if (get == NULL || get(&real) != 0)
            return 5;
        memcpy(&ours, real, sizeof ours);
        ours.functions[LOGIN] = (function) login;
        ours.functions[ENCRYPT_INIT] = (function) encrypt_init;
        ours.functions[ENCRYPT] = (function) encrypt;
        ours.functions[DECRYPT] = (function) decrypt;
    }
    *list = &ours;
    return 0;
}
