-- Verifies Vivoldi's signature in nginx, as a careful user would write it: digest and MAC from the
-- libcrypto that nginx has loaded, strict parsing, constant-time comparison, and a replay table in
-- shared memory.
local ffi = require "ffi"
local C = ffi.C
ffi.cdef [[
unsigned char *SHA256(const unsigned char *d, size_t n, unsigned char *md);
typedef struct evp_md_st EVP_MD;
const EVP_MD *EVP_sha256(void);
unsigned char *HMAC(const EVP_MD *md, const void *key, int key_len, const unsigned char *d, size_t n,
                    unsigned char *out, unsigned int *out_len);
int CRYPTO_memcmp(const void *a, const void *b, size_t len);
]]

local M = {}
local secret = "@SECRET@"
local window_ms = 300 * 1000
local ttl = 24 * 3600
local sha256_md = C.EVP_sha256()
local digest = ffi.new("unsigned char[32]")
local hex = ffi.new("char[64]")
local digits = "0123456789abcdef"
local bit = require "bit"
local events = ngx.shared.events

local function to_hex(bytes)
    for i = 0, 31 do
        local b = bytes[i]
        hex[2 * i] = digits:byte(bit.rshift(b, 4) + 1)
        hex[2 * i + 1] = digits:byte(bit.band(b, 15) + 1)
    end
    return ffi.string(hex, 64)
end

local function reject()
    return ngx.exit(401)
end

-- Runs before the request is forwarded. Ends it here unless it is authentic and new.
function M.access()
    local headers = ngx.req.get_headers(100)
    local signature, event = headers["x-vivoldi-signature"], headers["x-vivoldi-event-id"]
    if type(signature) ~= "string" or type(event) ~= "string" then return reject() end
    local m = ngx.re.match(signature, [[^t=([0-9]{1,16}),v1=([0-9a-f]{64}),alg=hmac-sha256$]], "jo")
    if not m then return reject() end
    local t = tonumber(m[1])
    if t < 1e11 then t = t * 1000 end

    ngx.req.read_body()
    local body = ngx.req.get_body_data()
    if not body then
        if ngx.req.get_body_file() then return ngx.exit(413) end
        body = ""
    end
    C.SHA256(body, #body, digest)
    local message = m[1] .. "." .. event .. "." .. to_hex(digest)
    C.HMAC(sha256_md, secret, #secret, message, #message, digest, nil)
    if C.CRYPTO_memcmp(to_hex(digest), m[2], 64) ~= 0 then return reject() end
    if math.abs(ngx.now() * 1000 - t) > window_ms then return reject() end

    local added, err = events:safe_add(event, false, ttl)
    if not added then
        if err ~= "exists" then return ngx.exit(503) end
        if events:get(event) then return ngx.exit(200) end
        return ngx.exit(503)
    end
    ngx.ctx.event = event
end

-- Runs after the response. Keeps a success; removes the event otherwise, so that its retry passes.
function M.log()
    local event = ngx.ctx.event
    if not event then return end
    if ngx.status >= 200 and ngx.status < 300 then
        events:set(event, true, ttl)
    else
        events:delete(event)
    end
end

return M
