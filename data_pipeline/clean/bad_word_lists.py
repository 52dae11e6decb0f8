"""Short lists of obscene words, of our own making: unmistakable ones, so that medicine, law and literature stay.

Phrases are found inside others too: `hand job` in "first-hand job", 口爆 in 人口爆炸. Such are not listed."""

_ENGLISH = (
    "bareback sex|blowjob|blowjobs|blow job|blow jobs|camgirl|camgirls|camwhore|cocksucker|cocksuckers|"
    "creampie|cum shot|cumshot|cumshots|cunt|cunts|deepthroat|dildo|dildos|dominatrix|"
    "double penetration|fuck|fucked|fucker|fuckers|fucking|fucks|gangbang|gang bang|gangbangs|handjob|"
    "handjobs|hardcore porn|hentai|horny milf|live sex cam|motherfucker|motherfuckers|motherfucking|"
    "nigger|niggers|porn|porno|pornhub|porn video|porn videos|pornstar|pornstars|sex cam|sex cams|sex tube|"
    "sex video|sex videos|sex webcam|shemale|shemales|sluts|squirting pussy|tit fuck|titty|tranny porn|"
    "upskirt|wet pussy|xvideos|xhamster|xxx video|xxx videos"
)
_CHINESE = (
    "操你妈|操你媽|肏你|草泥马的|傻逼|煞笔东西|鸡巴|雞巴|骚货|騷貨|骚逼|騷屄|淫穴|"
    "内射视频|无码视频|無碼影片|无码片|無碼片|成人电影|成人電影|成人影片|成人网站|"
    "成人網站|成人小说|成人小說|黄色小说|黃色小說|色情网站|色情網站|色情视频|色情影片|情色小说|"
    "情色小說|三级片在线|三級片線上|激情视频|激情視頻|裸聊|裸聊网|援交妹|一夜情网|毛片网|"
    "毛片在线|偷拍自拍视频|AV女优|AV女優|女优无码|强奸乱伦|強姦亂倫|乱伦小说|亂倫小說"
)

LISTS = {"en": _ENGLISH.split("|"), "zh": _CHINESE.split("|")}
"""Language -> words and phrases."""
